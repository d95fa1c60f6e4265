"""The script for the table of cases, which adds a filter and sorting; the page is complete without it."""

from __future__ import annotations

SCRIPT = """
"use strict";
(function(){
var table=document.getElementById("cases"),box=document.getElementById("controls");
if(!table||!box)return;
var body=table.tBodies[0],rows=[].slice.call(body.rows),heads=[].slice.call(table.tHead.rows[0].cells),choices=[];
function word(row,column){return row.cells[column].textContent.trim();}
function labelled(name,control){
var label=document.createElement("label");
label.appendChild(document.createTextNode(name));label.appendChild(control);box.appendChild(label);return control;}
var search=labelled("Search",document.createElement("input"));search.type="search";
heads.forEach(function(head,column){
if(!head.hasAttribute("data-choice"))return;
var select=labelled(head.textContent,document.createElement("select")),known=[];
rows.forEach(function(row){var value=word(row,column);if(known.indexOf(value)<0)known.push(value);});
["all"].concat(known.sort()).forEach(function(value){
var option=document.createElement("option");option.textContent=value;select.appendChild(option);});
choices.push([column,select]);});
var shown=document.createElement("p");shown.setAttribute("aria-live","polite");box.appendChild(shown);
function filter(){
var text=search.value.toLowerCase(),count=0;
rows.forEach(function(row){
var fits=row.textContent.toLowerCase().indexOf(text)>=0&&choices.every(function(choice){
return choice[1].selectedIndex===0||word(row,choice[0])===choice[1].value;});
row.hidden=!fits;count+=fits?1:0;});
shown.textContent=count+" of "+rows.length+" cases";}
function sort(column,down){
var numeric=heads[column].className==="number";
function key(row){
if(!numeric)return word(row,column);
var text=word(row,column).replace("\\u00d7",""),value=parseFloat(text);
return isNaN(value)?Infinity:text===word(row,column)?value:value*100;}
rows.map(function(row,place){return[key(row),place,row];}).sort(function(a,b){
var order=a[0]<b[0]?-1:a[0]>b[0]?1:0;
return(down?-order:order)||a[1]-b[1];}).forEach(function(found){body.appendChild(found[2]);});}
heads.forEach(function(head,column){
var button=document.createElement("button");button.type="button";button.textContent=head.textContent;
head.textContent="";head.appendChild(button);
button.addEventListener("click",function(){
var down=head.getAttribute("aria-sort")==="ascending";
heads.forEach(function(other){other.removeAttribute("aria-sort");});
head.setAttribute("aria-sort",down?"descending":"ascending");sort(column,down);});});
search.addEventListener("input",filter);
choices.forEach(function(choice){choice[1].addEventListener("change",filter);});
filter();
})();
"""
